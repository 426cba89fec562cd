"""Operations of kind `python`: signatures, threads and subprocesses."""
