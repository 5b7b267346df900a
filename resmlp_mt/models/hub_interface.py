"""The Python interface of a trained model: ``ResMLPModel.from_pretrained(...).translate("a sentence")``."""

from typing import Any

import torch
from fairseq.hub_utils import GeneratorHubInterface
from torch import Tensor

from resmlp_mt.text import has_text, one_line


class HubInterface(GeneratorHubInterface):
    """fairseq's interface, by which a sentence without text has a translation without text.

    The decoder would invent one: it has not met an empty source in training.
    """

    def encode(self, sentence: str) -> Tensor:
        """Return the tokens of a text, ``(T,)``, read as ``prepare`` reads it; of one without text its end alone."""
        return super().encode(one_line(sentence) if has_text(sentence) else "")

    def generate(
        self,
        tokenized_sentences: Any,
        beam: int = 5,
        verbose: bool = False,
        skip_invalid_size_inputs: bool = False,
        **options: Any,
    ) -> Any:
        """Translate tokens: the hypotheses of each sentence, best first; of one without text a single empty one.

        Args:
            tokenized_sentences: ``(T,)`` for one sentence, or a list of such.
            beam: hypotheses kept.
            verbose: log them.
            skip_invalid_size_inputs: leave out what is longer than A, as fairseq does, instead of an error.
            options: fairseq's others.
        """
        if torch.is_tensor(tokenized_sentences) and tokenized_sentences.dim() == 1:
            return self.generate([tokenized_sentences], beam, verbose, skip_invalid_size_inputs, **options)[0]
        sentences = list(tokenized_sentences)
        if skip_invalid_size_inputs:
            sentences = [tokens for tokens in sentences if len(tokens) <= self.max_positions[0]]
        with_text = [tokens for tokens in sentences if not self.is_empty(tokens)]
        translations = iter(super().generate(with_text, beam, verbose, **options) if with_text else ())
        return [[self._nothing()] if self.is_empty(tokens) else next(translations) for tokens in sentences]

    def is_empty(self, tokens: Tensor) -> bool:
        """Whether tokens are the end of a sentence alone."""
        return tokens.tolist() == [self.src_dict.eos()]

    def _nothing(self) -> dict[str, Any]:
        """Return a hypothesis in fairseq's form."""
        certain = torch.zeros(1)
        none = torch.empty(0)
        tokens = torch.tensor([self.tgt_dict.eos()])
        return {
            "tokens": tokens,
            "score": certain[0],
            "positional_scores": certain,
            "attention": none,
            "alignment": none,
        }
