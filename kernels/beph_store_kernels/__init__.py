"""Operations on arrays: `reference` says what each one means."""
