"""A page to look at: results, curves and ranked lists in one HTML file."""
