"""Where questions and their corpus come from: a generated world, MuSiQue, or one's own files."""

from nanoscout.questions.question_set import QuestionSet, needs_visit
from nanoscout.recipe import QuestionsSpec

__all__ = ["QuestionSet", "load_questions", "needs_visit"]


def load_questions(spec: QuestionsSpec, seed: int) -> QuestionSet:
    """The questions and passages that a recipe asks for; raises UserError for unusable input."""
    if spec.source == "world":
        from nanoscout.questions.world import load_world

        return load_world(spec, seed)
    if spec.source == "musique":
        from nanoscout.questions.musique import load_musique

        return load_musique(spec, seed)
    from nanoscout.questions.jsonl import load_jsonl

    return load_jsonl(spec, seed)
