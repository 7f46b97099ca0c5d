"""How positions and token vectors enter the model."""

from __future__ import annotations

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

register(
    Feature(
        name="rope_scaling",
        option="rope_scaling",
        summary="stretch rotary embeddings past the trained length",
        without="--rope-scaling none and no --rope-factor",
        change_cost="restart",
        requested=lambda c: c.model.rope_scaling != "none",
        active=lambda p: p.spec.rope_scaling != "none",
        excludes=(Exclusion("other_positions", "nothing is rotated"),),
        trial=Trial({"rope_scaling": "linear", "rope_factor": 2.0}, keeps=False),
    )
)
register(
    Feature(
        name="other_positions",
        option="pos_encodings",
        summary="positions added to token vectors, or none, in place of rotation",
        without="--pos-encodings rope",
        change_cost="restart",
        requested=lambda c: c.model.pos_encodings != "rope",
        active=lambda p: p.spec.pos_encodings != "rope",
        trial=Trial(
            {"pos_encodings": "learned"},
            keeps=False,
            tensors=("position_embedding.weight",),
        ),
    )
)
register(
    Feature(
        name="scaled_embeddings",
        option="scale_embeddings",
        summary="token vectors times the square root of the width",
        without="--no-scale-embeddings",
        change_cost="restart",
        requested=lambda c: c.model.scale_embeddings,
        active=lambda p: p.spec.scale_embeddings,
        excludes=(
            Exclusion(
                "stable_embedding",
                "one multiplies token vectors, the other brings them to length "
                "sqrt(hidden size) whatever they are",
            ),
        ),
        trial=Trial({"scale_embeddings": True}, keeps=False),
    )
)
register(
    Feature(
        name="stable_embedding",
        option="use_stable_embedding",
        summary="token vectors normalised before the first block",
        without="--no-use-stable-embedding",
        change_cost="restart",
        requested=lambda c: c.model.use_stable_embedding,
        active=lambda p: p.spec.use_stable_embedding,
        trial=Trial(
            {"use_stable_embedding": True},
            keeps=False,
            tensors=("embedding_norm.weight",),
        ),
    )
)
register(
    Feature(
        name="tied_embeddings",
        option="tie_embeddings",
        summary="the output head is the embedding",
        without="--no-tie-embeddings",
        change_cost="restart",
        requested=lambda c: c.model.tie_embeddings,
        active=lambda p: p.spec.tie_embeddings,
        trial=Trial({"tie_embeddings": True}, keeps=False),
    )
)
