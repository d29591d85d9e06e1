"""The HTTP server: reads bodies of several content types, delegates to the gateway, answers in the type asked for."""
