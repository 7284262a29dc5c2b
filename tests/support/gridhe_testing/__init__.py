"""What tests share and no user needs: real grids in small."""
