"""Which parts of a policy gradient go together, and which numbers they take. `o` is the objective."""

from jaxpost.objectives import advantages

OWN_SCALE = tuple(advantages.WEIGHT_FORMULAS)  # baselines that advantages.advantage does not know


def consistent(o) -> None:
    """Refuse parts that contradict each other. Raises: ValueError."""
    o.require(o.clip_cap is None or o.clip == "capped_weight",
              f"clip_cap={o.clip_cap} with clip={o.clip!r}: only 'capped_weight' takes a cap")
    o.require(o.clip != "capped_weight" or (o.clip_cap is None) != (o.clip_high is None),
              f"clip='capped_weight' with clip_cap={o.clip_cap}, clip_high={o.clip_high} needs one of the two: "
              "clip_cap is the bound of the ratio itself (TRL's epsilon_high, in spite of its name), clip_high its "
              "distance from 1")
    o.require(o.clip == "surrogate" or o.ratio != "none",
              f"clip={o.clip!r} weights by a ratio and needs one, e.g. ratio='token', not 'none'")
    o.require(o.baseline != "accepted" or (o.kl_place != "reward" and o.overlong_limit is None),
              "baseline='accepted' asks for a score of 1, which a penalty in the reward takes from every row; "
              "put the KL in the loss and leave overlong_limit None")
    o.require(o.baseline != "ignored" or (o.kl_place, o.credit_unit) == ("reward", "token"),
              f"baseline='ignored' with kl_place={o.kl_place!r}, credit_unit={o.credit_unit!r} leaves nothing to learn from; "
              "take kl_place='reward' and credit_unit='token'")
    o.require(not o.informative_only or o.whiten == "none",
              f"informative_only with whiten={o.whiten!r} would give the other groups an advantage again; "
              "choose whiten='none'")
    o.require(o.kl_estimator != "full" or o.kl_place != "reward",
              "kl_estimator='full' is a term of the loss; in the reward use 'k1'")
    o.require(o.kl_estimator != "full" or o.kl_gradient == "value",
              f"kl_estimator='full' is exact; kl_gradient={o.kl_gradient!r} must be 'value'")


def ranges(o) -> None:
    """Refuse numbers out of range. Raises: ValueError."""
    o.require(o.clip_cap is None or o.clip_cap > 0,
              f"clip_cap={o.clip_cap} must be greater than 0; it is the bound of the ratio itself, e.g. 1.28; for a "
              "distance from 1 use clip_high, e.g. 0.28")
    for field in ("clip_low", "clip_high"):
        value = getattr(o, field)
        o.require(value is None or value > 0,
                  f"{field}={value} must be greater than 0; it is a distance from 1, e.g. 0.2")
    o.require(o.clip_low is None or o.clip_low <= 1, f"clip_low={o.clip_low} is above 1: no ratio is that low; "
              "for no lower bound use None")
    o.require(o.dual_clip is None or o.dual_clip > 1 + (o.clip_high or 0),
              f"dual_clip={o.dual_clip} must be greater than 1 + clip_high, e.g. 3")
    for field in ("eps", "kl_coef", "entropy_coef"):
        o.require(getattr(o, field) >= 0, f"{field}={getattr(o, field)} is negative")
    o.require(0 <= o.gamma <= 1, f"gamma={o.gamma} must lie in [0, 1], e.g. 1")
    o.require(o.reward_low < 1, f"reward_low={o.reward_low} must be below 1, e.g. -1")
    o.require(o.overlong_limit is None or 0 < o.overlong_cache <= o.overlong_limit,
              f"overlong_cache={o.overlong_cache} must lie in 1 .. overlong_limit={o.overlong_limit}")
    for field, usual in (("sampler_cap", 2), ("ratio_cap", 2)):
        value = getattr(o, field)
        o.require(value is None or value > 1, f"{field}={value} must be greater than 1, e.g. {usual}")
    o.require(o.sampler_floor is None or 0 < o.sampler_floor < 1,
              f"sampler_floor={o.sampler_floor} must lie between 0 and 1, e.g. 0.5; for no lower bound use None")
    for field, usual in (("log_ratio_clamp", 20), ("kl_log_ratio_clamp", 20), ("kl_clamp", 10), ("off_policy_limit", 0.5)):
        value = getattr(o, field)
        o.require(value is None or value > 0, f"{field}={value} must be greater than 0, e.g. {usual}")


def unread(o) -> None:
    """Refuse parts that are set although nothing would read them. Raises: ValueError."""
    if o.kl_place == "none":
        o.unread("with kl_place='none' (choose 'loss' or 'reward')", "kl_estimator", "kl_gradient", "kl_coef")
    if o.kl_place == "none" or o.kl_estimator == "full":
        o.unread("without a KL from log-probabilities of the sampled tokens", "kl_clamp", "kl_log_ratio_clamp")
    if o.kl_place == "reward":
        o.unread("with kl_place='reward': a reward has no gradient (choose kl_place='loss')", "kl_gradient")
    if o.ratio == "none":
        o.unread("with ratio='none', whose value is always 1 (choose ratio='token')", "clip_low", "clip_high",
                    "dual_clip", "ratio_cap", "log_ratio_clamp")
    if o.clip != "surrogate":
        o.unread(f"with clip={o.clip!r} (choose clip='surrogate')", "dual_clip", "ratio_cap")
    if o.clip == "capped_weight":
        o.unread("with clip='capped_weight' (choose clip='weight')", "clip_low")
    if not o.takes_deviation:
        o.unread("where no standard deviation is taken (choose a scale)", "ddof",
                 *(() if o.whiten == "row" else ("eps",)))
    if not o.compares:
        o.unread(f"with baseline={o.baseline!r}, which compares with no other sample of the group", "lone_reward")
    if o.baseline in OWN_SCALE:
        o.unread(f"with baseline={o.baseline!r}", "scale")
    if o.never_negative:
        o.unread("where advantages are not negative", "clip_low", "dual_clip", "off_policy_limit")
    if o.baseline == "accepted":
        o.unread("with baseline='accepted', which asks for a score of 1", "reward_low")
    if not o.rejects:
        o.unread("where no row is rejected (choose baseline='accepted' or 'positive')", "rejected")
    if o.baseline == "ignored":
        o.unread("with baseline='ignored', which reads no reward", "scale", "reward_low", "informative_only", "overlong_limit")
    if o.compares:
        o.unread(f"with baseline={o.baseline!r}, which gives equal rewards advantage 0 anyway", "informative_only")
    if o.credit_unit == "row":
        o.unread("with credit_unit='row' (choose credit_unit='token')", "gamma")
    elif o.gamma == 1 and o.kl_place != "reward":
        o.unread("with gamma=1 and no KL reward, where every token has its row's advantage", "credit_unit")
    if o.sampler_cap is None and o.sampler_floor is None:
        o.unread("without sampler_cap or sampler_floor, which correct for the sampler", "sampler_level", "sampler_rule")
    if o.overlong_limit is None:
        o.unread("without an overlong_limit", "overlong_cache")
