"""The world a conversation happens in: the dialogue's form, the tools, and the prompt.

One environment serves training, evaluation and use: what the model was trained in is what it is
asked in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nanoscout.dialogue.examples import Message, result_messages
from nanoscout.dialogue.template import Dialogue
from nanoscout.records import Question, ToolResult
from nanoscout.tools.toolbox import Toolbox


@dataclass(frozen=True)
class Environment:
    dialogue: Dialogue
    toolbox: Toolbox
    system: str
    examples: tuple[list[dict[str, str]], ...] = ()
    """Worked examples, each a list of chat messages."""
    repeat_question: bool = False
    _prompts: dict[tuple[str, int], list[int]] = field(
        init=False, default_factory=dict, repr=False, compare=False
    )

    def prompt_ids(self, question: Question, examples: int | None = None) -> list[int]:
        """Token ids of the system prompt, the first `examples` worked examples and the question."""
        shown = self.examples if examples is None else self.examples[:examples]
        key = (question.text, len(shown))
        if key not in self._prompts:
            self._prompts[key] = self.dialogue.prompt(
                [
                    {"role": "system", "content": self.system},
                    *(message for example in shown for message in example),
                    {"role": "user", "content": question.text},
                ],
                self.toolbox.specs,
            )
        return self._prompts[key]

    def reply(self, question: Question, results: Sequence[ToolResult]) -> list[Message]:
        """What the model reads after a turn."""
        repeated = question.text if self.repeat_question else None
        texts = [result.text for result in results]
        return result_messages(self.dialogue.format, texts, repeated)
