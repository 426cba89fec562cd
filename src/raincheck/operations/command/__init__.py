"""Operations of kind `command`."""
