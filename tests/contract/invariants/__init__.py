"""What holds of every wrapped model, by subject; ``test_contract.py`` runs all of it."""
