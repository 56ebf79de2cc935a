"""A backtest: the workspace's own history, arrival by arrival, under several policies of retraining."""
