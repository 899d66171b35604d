"""What the peers' runners share: the rates of one prompt and of tokens one by one, after a warm-up, as one JSON line."""
import json
import time


def report(reset, feed, prompt, decode):
    """feed(n, at): n random tokens behind the first `at`."""
    for _ in range(2):  # the first warms up
        reset()
        start = time.perf_counter()
        feed(prompt, 0)
        prefill = prompt / (time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(decode):
            feed(1, prompt + i)
        rate = decode / (time.perf_counter() - start)
    print(json.dumps({"prefill_tokens_per_s": prefill, "decode_tokens_per_s": rate}))
