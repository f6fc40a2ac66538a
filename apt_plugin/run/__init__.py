"""What every training run of the recipe does, whichever host trains: no host and no framework is named here."""
