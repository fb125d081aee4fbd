// SPDX-License-Identifier: Apache-2.0
// Renders each Mermaid picture of a Markdown file; prints the SVGs as a JSON list.
// There is no browser: texts are as wide as their letters are many, which is enough to lay out.
import fs from 'node:fs';
import { JSDOM } from 'jsdom';

const dom = new JSDOM('<!DOCTYPE html><body></body>', { pretendToBeVisual: true });
globalThis.window = dom.window;
globalThis.document = dom.window.document;
for (const name of ['Element', 'SVGElement', 'HTMLElement', 'Node', 'DOMParser', 'XMLSerializer',
  'CSSStyleSheet']) {
  if (!(name in globalThis)) globalThis[name] = dom.window[name];
}
const drawn = dom.window.SVGElement.prototype;
const width = (element) => 8 * (element.textContent ?? '').length;
drawn.getBBox = function () { return { x: 0, y: 0, width: width(this), height: 16 }; };
drawn.getComputedTextLength = function () { return width(this); };

const mermaid = (await import('mermaid')).default;
mermaid.initialize({ startOnLoad: false, htmlLabels: false, flowchart: { htmlLabels: false } });
const pictures = [];
const text = fs.readFileSync(process.argv[2], 'utf8');
for (const [, code] of text.matchAll(/^```mermaid\n([\s\S]*?)^```$/gm)) {
  pictures.push((await mermaid.render(`picture${pictures.length + 1}`, code)).svg);
}
process.stdout.write(JSON.stringify(pictures));
