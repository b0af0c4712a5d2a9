"""Soft overlong punishment (DAPO, arXiv 2503.14476, eq. 13)."""


def soft_overlong(sampled_tokens: int, max_tokens: int, cache_tokens: int) -> float:
    """0 up to max - cache, then linearly down to -1 at max, and -1 beyond.

    Counts what the policy sampled, never what a tool returned.
    """
    begin = max_tokens - cache_tokens
    if sampled_tokens <= begin:
        return 0.0
    return max(-1.0, (begin - sampled_tokens) / cache_tokens)
