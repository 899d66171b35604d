def main(only): pass
