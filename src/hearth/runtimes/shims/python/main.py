"""The Python guest of Hearth: says hello, is given one version to load, answers requests.

Run as `python3 -I -S main.py` inside a sandbox. Standard library only; Python 3.11 or newer.
"""

if __name__ == "__main__":  # multiprocessing's spawn imports this file again under another name
    import sys

    sys.path.insert(0, __file__.rpartition("/")[0])
    from hearth_shim.boot import main

    del sys.path[0]
    main()
