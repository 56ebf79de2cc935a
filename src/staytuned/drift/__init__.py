"""Drift: has what arrives moved away from what the champion was trained on, and is a new one due?"""
