"""Torture of what is written and read: kills, deaths, damaged files, a full disk, two processes in one folder."""
