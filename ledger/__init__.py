"""What is owed: tickets, accounts, the journal, the broker contract. Knows no job and no network."""
