"""What is found out about a quantized model, tensor by tensor; `report` shows it."""
