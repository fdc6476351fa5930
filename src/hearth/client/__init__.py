"""The Python client of the management API: what the command line is made of.

`connection.Connection` speaks HTTP to one server, `api.Client` has a method for each endpoint,
`credentials.CredentialsFile` keeps the tokens, `pack.pack_folder` makes the archive that is deployed.
"""
