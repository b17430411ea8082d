"""From a Problem to something that runs: survey the algorithms, choose one, pack the weights, explain why."""
