"""fn(x [B, H, W], logits [B, H * W]) -> [B]: Bernoulli log-likelihood, nats, of binary images under
a decoder that lists its pixels row by row."""

from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def right_flatten_x(x, logits):
    nll = binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="none")
    return -nll.sum(-1)


def right_unflatten_logits(x, logits):
    logits = logits.view(x.shape)
    return (x * logsigmoid(logits) + (1 - x) * logsigmoid(-logits)).sum((1, 2))


def wrong_shown(x, logits):
    """the exhibit: rows for columns"""
    pixels = x.transpose(1, 2).flatten(1)
    nll = binary_cross_entropy_with_logits(logits, pixels, reduction="none")
    return -nll.sum(-1)


def wrong_mirrored(x, logits):
    """left for right"""
    nll = binary_cross_entropy_with_logits(logits, x.flip(2).flatten(1), reduction="none")
    return -nll.sum(-1)


def wrong_upside_down(x, logits):
    """top for bottom"""
    nll = binary_cross_entropy_with_logits(logits, x.flip(1).flatten(1), reduction="none")
    return -nll.sum(-1)


def wrong_negative(x, logits):
    """black for white"""
    nll = binary_cross_entropy_with_logits(logits, 1 - x.flatten(1), reduction="none")
    return -nll.sum(-1)


def wrong_first_image(x, logits):
    """one decoding for all images"""
    nll = binary_cross_entropy_with_logits(logits[:1].expand_as(logits), x.flatten(1))
    return -nll.expand(len(x)) * logits.shape[1]
