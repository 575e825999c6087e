"""A model of Hugging Face transformers, built from the `config.json` of a folder. Its weights come by `init_from`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from modules.model.pretrained.weight_names import name_saved_weights

FIXED = {"use_cache": False, "dtype": "float32"}
"""A training keeps no states for the next token, and `precision` chooses the numbers."""


class HuggingFace(nn.Module):
    """A model that a class of transformers such as ``AutoModelForSequenceClassification`` makes of a configuration.

    Only architectures of the installed library are built: no code of the folder runs, nothing is downloaded, and no weights are
    read here. Source: Wolf et al. 2020, arXiv:1910.03771.
    """

    is_component = True
    auto_values = "modules.model.pretrained.config_file.find_auto_values"

    def __init__(
        self,
        auto_class: str,
        config: Mapping[str, Any],
        folder: str | None = None,
        num_classes: int | None = None,
        inputs: Sequence[str] = ("input_ids", "attention_mask"),
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            auto_class: ``AutoModelFor...``, by what the model answers: ``AutoModelForSequenceClassification``,
                ``AutoModelForCausalLM``, ``AutoModelForImageClassification``, ...
            config: the content of a `config.json`; "auto" in a configuration reads that of the folder.
            folder: the folder with `config.json`. The constructor does not read it.
            num_classes: of the head of a classifier, instead of the number in ``config``; None: keep it.
            inputs: the arguments of the model, if a batch has several inputs in a tuple.
            changes: values of ``config`` to replace, such as ``hidden_dropout_prob``.
        """
        super().__init__()
        try:
            import transformers
        except ImportError as err:
            raise ValueError(
                "HuggingFace wants transformers, which is an extra; `pip install 'lathe-dl[models]'`"
            ) from err
        factory = getattr(transformers, auto_class, None) if auto_class.startswith("AutoModel") else None
        if factory is None:
            raise ValueError(
                f"HuggingFace wants a class such as AutoModelForSequenceClassification as auto_class, but got {auto_class!r}"
            )
        rest = {**config, **(changes or {}), **FIXED}
        model_type = rest.pop("model_type", None)
        if not isinstance(model_type, str):
            raise ValueError(
                "HuggingFace wants model_type in config, such as bert; name a folder with a complete config.json"
            )
        known = {*config, *transformers.AutoConfig.for_model(model_type).to_dict()}
        if unknown := [key for key in changes or () if key not in known]:
            raise ValueError(
                f"HuggingFace has model.changes={unknown}, which a model of the type {model_type} does not know"
            )
        if num_classes is not None and num_classes != len(rest.get("id2label") or ()):
            rest = {key: value for key, value in rest.items() if key not in ("id2label", "label2id")}
            rest["num_labels"] = num_classes
        own = transformers.AutoConfig.for_model(model_type, **rest)
        self.model: nn.Module = factory.from_config(own, trust_remote_code=False)
        self.inputs = tuple(inputs)

    def forward(self, inputs: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]) -> Tensor:
        """Map a batch to the answers of the model.

        Args:
            inputs: the first argument of the model, such as tokens, int64 [batch, time], or images, float [batch, channels,
                height, width]; or several of its arguments in a tuple, in the order of ``inputs``, or by name.

        Returns:
            The logits, float [batch, ..., classes]; of a model without a head the states of its last layer.

        Raises:
            ValueError: the output has neither, or a tuple has another length than ``inputs``.
        """
        if isinstance(inputs, Tensor):
            outputs = self.model(inputs)
        elif isinstance(inputs, Mapping):
            outputs = self.model(**inputs)
        elif len(inputs) > len(self.inputs):
            raise ValueError(
                f"HuggingFace got {len(inputs)} inputs; name them in model.inputs, which has {self.inputs}"
            )
        else:
            outputs = self.model(**dict(zip(self.inputs, inputs, strict=False)))
        for name in ("logits", "last_hidden_state"):
            if isinstance(answer := getattr(outputs, name, None), Tensor):
                return answer
        raise ValueError(
            f"HuggingFace wants a model with logits, but its output has {', '.join(outputs)}; choose another auto_class"
        )

    def name_saved_weights(self, names: Iterable[str]) -> dict[str, str]:
        return name_saved_weights(self.model, names)
