"""A training's data loader on the mount, beside other clients: `python -m bench training`.

`files` is what is read, `loader` who reads it, `clients` are the contenders, `run` is one contender's five epochs,
`case` compares and judges them, `report` shows them, `dlio` runs the generator behind MLPerf Storage, and `bench` puts
all of it together.
"""
