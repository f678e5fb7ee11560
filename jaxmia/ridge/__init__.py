"""What is known of ridge heads without shadow models, or from few."""
