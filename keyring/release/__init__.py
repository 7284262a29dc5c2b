"""From a received total to released integers: inbox, queue, policy, ledger, decryption, answers."""
