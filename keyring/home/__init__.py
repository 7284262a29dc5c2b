"""The authority's folder: vault, passphrase, enrolments, certificates, plans and their inspection."""
