"""Operations of kind `http`, and the job APIs behind them."""
