"""Pure: adds ciphertexts into parts, and decides which parts close when. No socket, clock or disk."""
