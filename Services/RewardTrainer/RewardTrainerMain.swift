import ServiceKit

/// `foretaste-reward-trainer`.
@main
struct RewardTrainerMain {
    static func main() async {
        await ServiceMain.run(
            service: RewardTrainerService.name,
            summary: "Trains reward heads on people's preferences (train_reward) and measures registered ones (evaluate_reward).",
            RewardTrainerService.application)
    }
}
