"""How the synthetic slides are drawn: noise, stamps, landscape, painter."""
