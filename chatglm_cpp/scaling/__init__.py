"""Several engines on one or more machines behind one address, by Ray Serve: `front` is what clients talk to,
`engine` one replica of the model, `sticky_router` the choice among them, `application` puts them together."""
