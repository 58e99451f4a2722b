"""Results as numpy arrays with named axes, the certificate, metrics: no torch, no plotly."""
