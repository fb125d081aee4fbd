# SPDX-License-Identifier: Apache-2.0
"""The style of the audit's page: light and dark, for screens and for paper."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root { --ink: #16202a; --soft: #5c6b7a; --line: #e3e8ee; --page: #f5f7f9; --card: #fff;
  --cell: #e8edf2; --good: #1d7f57; --bad: #b52a2a; --mark: #ffe08a; --row: #fff7e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #93a1b0; --line: #2b3642;
  --page: #11171d; --card: #19212a; --cell: #26303b; --good: #56c795; --bad: #f07a7a;
  --mark: #7d5f00; --row: #2b2717; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 24px 64px; }
.eyebrow { margin: 0; color: var(--soft); letter-spacing: .08em; text-transform: uppercase;
  font-size: 12px; font-weight: 600; }
h1 { margin: 4px 0 16px; font-size: 34px; line-height: 1.15; letter-spacing: -.01em; }
h1.good, .mark.good { color: var(--good); }
h1.bad, .mark.bad { color: var(--bad); }
h2 { margin: 0; font-size: 21px; overflow-wrap: anywhere; }
h3 { margin: 26px 0 8px; font-size: 15px; }
.mark { margin-left: 8px; padding: 2px 10px; border: 1.5px solid currentColor;
  border-radius: 99px; font-size: 13px; font-weight: 600; vertical-align: 3px;
  white-space: nowrap; }
.sizes { margin: 2px 0 16px; color: var(--soft); font-variant-numeric: tabular-nums; }
.note { margin: 0 0 12px; padding: 8px 12px; border-left: 3px solid #e08a1e;
  background: var(--row); overflow-wrap: anywhere; }
section { margin-top: 24px; padding: 24px; background: var(--card); border: 1px solid var(--line);
  border-radius: 14px; }
svg.grid { display: block; width: 100%; height: auto; max-height: 420px; }
svg.bar { display: block; width: 100%; height: 14px; margin-top: 16px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 12px 0 0; padding: 0;
  list-style: none; font-variant-numeric: tabular-nums; }
i { display: inline-block; width: 11px; height: 11px; margin-right: 7px; border-radius: 3px; }
details { margin-top: 18px; }
details dl { margin-top: 8px; }
summary { cursor: pointer; }
.example { margin-top: 10px; border: 1px solid var(--line); border-radius: 10px;
  overflow: hidden; }
.example summary { padding: 9px 14px; overflow-wrap: anywhere; }
.bucket { float: right; margin-left: 12px; color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; border-top: 1px solid var(--line);
  font-size: 13.5px; table-layout: fixed; }
th, td { padding: 6px 14px; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
tr + tr > * { border-top: 1px solid var(--line); }
thead th { padding-top: 8px; font-weight: 600; }
thead small { display: block; color: var(--soft); font-weight: 400; font-size: 11.5px; }
tbody th { width: 22%; color: var(--soft); font-weight: 500; }
thead th:first-child { width: 22%; }
td { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; }
.unlike > * { background: var(--row); }
.unlike th { color: var(--ink); font-weight: 700; }
mark { padding: 0 1px; border-radius: 2px; background: var(--mark); color: inherit; }
.tag { color: var(--soft); font-size: 11px; }
.none, em { color: var(--soft); font-style: italic; }
footer { margin-top: 24px; color: var(--soft); font-size: 13px; max-width: 75ch; }
@media print { body { background: none; } section { break-inside: avoid-page; border: none; } }
"""
