"""fn(reward [S, B], score [S, B, P]) -> [B, P]: an unbiased estimate of E[reward * score], from
S >= 2 independent draws whose score has mean zero; a baseline may make it quieter."""


def right_plain(reward, score):
    return (reward[..., None] * score).mean(0)


def right_leave_one_out(reward, score):
    others = (reward.sum(0) - reward) / (len(reward) - 1)
    return ((reward - others)[..., None] * score).mean(0)


def right_centred(reward, score):
    centred = reward - reward.mean(0)
    return (centred[..., None] * score).sum(0) / (len(reward) - 1)


def right_constant(reward, score):
    return ((reward - 3.0)[..., None] * score).mean(0)


def wrong_shown(reward, score):
    """the exhibit: a baseline that contains the draw itself"""
    centred = reward - reward.mean(0)
    return (centred[..., None] * score).mean(0)


def wrong_standardised(reward, score):
    """rewards divided by their spread"""
    centred = (reward - reward.mean(0)) / reward.std(0)
    return (centred[..., None] * score).mean(0)


def wrong_best_so_far(reward, score):
    """the largest reward as the baseline"""
    return ((reward - reward.max(0).values)[..., None] * score).mean(0)


def wrong_sum(reward, score):
    """a sum over draws"""
    others = (reward.sum(0) - reward) / (len(reward) - 1)
    return ((reward - others)[..., None] * score).sum(0)
