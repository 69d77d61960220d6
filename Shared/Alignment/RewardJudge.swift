import Rewards

/// A trained reward judges for the tuner and for Best-of-N: frozen trunk and head of its own, live input gradient.
extension RewardModel: LatentJudge {}
