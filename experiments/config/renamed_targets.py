"""Other names of a class in `_target_`: torch's short names, and names of the first version whose classes have moved."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from experiments.config import signature
from experiments.config.allowlist import TORCH, UNFIT
from experiments.config.signature import SourceError

SHORT = re.compile(r"torch\.(nn|optim)\.[A-Z]\w*")

TARGETS = {
    "modules.data.byte_pairs.BytePairs": "modules.data.text.byte_pairs.BytePairs",
    "modules.data.characters.Characters": "modules.data.text.characters.Characters",
    "modules.data.masked_photos.Distortion": "modules.data.image.masked_images.Distortion",
    "modules.data.masked_photos.MaskedPhoto": "modules.data.image.masked_images.MaskedImage",
    "modules.data.masked_photos.MaskedPhotos": "modules.data.image.masked_images.MaskedImages",
    "modules.data.name_groups.NameGroups": "modules.data.image.group_split.GroupSplit",
    "modules.data.pair_split.PairSplit": "modules.data.text.pair_split.PairSplit",
    "modules.data.photo_cut.PhotoCut": "modules.data.image.image_crop.ImageCrop",
    "modules.data.sentence_words.SentencePieces": "modules.data.text.sentence_words.SentencePieces",
    "modules.data.sentence_words.SentenceWords": "modules.data.text.sentence_words.SentenceWords",
    "modules.data.tar_index.TarIndex": "modules.data.image.tar_index.TarIndex",
    "modules.data.token_windows.TokenWindows": "modules.data.text.token_windows.TokenWindows",
    "modules.data.token_windows.WindowSizes": "modules.data.text.token_windows.WindowSizes",
    "modules.data.vocabulary.Vocabulary": "modules.data.text.vocabulary.Vocabulary",
    "modules.data.words_on_photo.Lettering": "modules.data.image.scene_text.Lettering",
    "modules.model.auxiliary.Auxiliary": "modules.model.layers.auxiliary.Auxiliary",
    "modules.model.auxiliary.OnFirst": "modules.model.layers.auxiliary.OnFirst",
    "modules.model.causal_attention.CausalAttention": "modules.model.layers.causal_attention.CausalAttention",
    "modules.model.inception_parts.Branches": "modules.model.layers.inception_blocks.Branches",
    "modules.model.inception_parts.ConvUnit": "modules.model.layers.inception_blocks.ConvUnit",
    "modules.model.lstm_cell.LstmCell": "modules.model.layers.lstm_cell.LstmCell",
    "modules.model.lstm_cell.LstmCells": "modules.model.layers.lstm_cell.LstmCells",
    "modules.model.response_norm.ResponseNorm": "modules.model.layers.response_norm.ResponseNorm",
    "modules.model.same_pool.SameMaxPool": "modules.model.layers.same_pool.SameMaxPool",
}


def complete(node: Any, groups: Collection[str]) -> Any:
    """Write the full name of torch's class for a short one such as ``torch.optim.NAdam``, and that an optimizer gets its
    parameters later. A configuration has one id, however it is written.

    Returns:
        The target; None if the node is not a map or has none.
    """
    if not isinstance(node, dict):
        return None
    target = node.get("_target_")
    if isinstance(target, str) and {*groups} == {"optimizer"}:
        node.setdefault("_partial_", True)
    if not isinstance(target, str) or not SHORT.fullmatch(target):
        return target
    try:
        full = f"{signature.read(target).defined_in}.{target.rpartition('.')[2]}"
    except SourceError:
        return target
    if full.startswith((*TORCH, *UNFIT)):
        node["_target_"] = full
    return node["_target_"]
