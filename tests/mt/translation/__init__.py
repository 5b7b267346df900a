"""Tests of translating with a trained model."""
