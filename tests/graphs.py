# SPDX-License-Identifier: Apache-2.0
"""What tests ask of a Beam graph: its labels and its coders."""

import apache_beam as beam
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2


def labels_of(pipeline, below=""):
    """Labels of this project's own transforms: the innards of Beam's are its own business."""
    found = []

    class Visitor(beam.pipeline.PipelineVisitor):
        def enter_composite_transform(self, node):
            self.visit_transform(node)

        def visit_transform(self, node):
            label = node.full_label
            if label and label.startswith(below) and not _is_beams_own(label):
                found.append(label)

    pipeline.visit(Visitor())
    assert len(set(found)) == len(found)
    return found


def pickled_places(pipeline):
    """Collections of ours and restrictions whose elements Beam would pickle."""
    components = pipeline.to_runner_api().components
    found = [
        each.unique_name
        for each in components.pcollections.values()
        if _pickles(each.coder_id, components.coders) and not _is_beams_own(each.unique_name[:-5])
    ]
    for each in components.transforms.values():
        if each.spec.urn == common_urns.primitives.PAR_DO.urn:
            payload = beam_runner_api_pb2.ParDoPayload.FromString(each.spec.payload)
            coder = payload.restriction_coder_id
            if coder and _pickles(coder, components.coders):
                found.append(f"restriction of {each.unique_name}")
    return found


def _pickles(coder_id, coders):
    coder = coders[coder_id]
    # Coders of our own are carried as objects, which is not to say that they pickle elements.
    own = coder.spec.urn == python_urns.PICKLED_CODER
    return (own and coder_id.startswith(("ref_Coder_FastPrimitives", "ref_Coder_Pickle"))) or any(
        _pickles(part, coders) for part in coder.component_coder_ids
    )


def _is_beams_own(label):
    last = label.rpartition("/")[2]
    return "Reshuffle" in last or "RandomKeys" in last or "(" in last or "/Reshuffle" in label
