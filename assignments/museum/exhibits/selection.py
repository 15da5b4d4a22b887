"""fn(first [C, B], second [C, B]) -> [B]: an estimate, nats, of the bound of one of C candidates
for each of B examples, free of selection bias; first and second score every candidate, unbiased
and independently of each other. Among clearly different candidates the best is to be chosen."""


def right_first_chooses(first, second):
    return second.gather(0, first.argmax(0, keepdim=True))[0]


def right_second_chooses(first, second):
    return first.gather(0, second.argmax(0, keepdim=True))[0]


def right_both_ways(first, second):
    one = second.gather(0, first.argmax(0, keepdim=True))[0]
    other = first.gather(0, second.argmax(0, keepdim=True))[0]
    return (one + other) / 2


def wrong_shown(first, second):
    """the exhibit: the winner scored by what chose it"""
    return first.max(0).values


def wrong_mean_then_max(first, second):
    """both scores used for the choice"""
    return ((first + second) / 2).max(0).values


def wrong_max_of_both(first, second):
    """the better of two scores"""
    chosen = second.gather(0, first.argmax(0, keepdim=True))[0]
    return chosen.maximum(first.max(0).values)


def wrong_never_chooses(first, second):
    """no choice at all"""
    return second.mean(0)


def wrong_one_for_all(first, second):
    """one candidate for all examples"""
    return second[first.mean(1).argmax()]
