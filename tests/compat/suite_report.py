"""What passed of OpenAI's own suite, per resource and method, from pytest's report."""

import collections
import re
import sys
import xml.etree.ElementTree as tree

tests = collections.defaultdict(lambda: [0, 0])
failures = collections.Counter()
for case in tree.parse(sys.argv[1]).iter("testcase"):
    resource = case.get("classname").removeprefix("tests.api_resources.").rsplit(".", 1)[0]
    method = re.match(r"test_(?:method|raw_response|streaming_response|path_params)_([a-z_]+?)(?:_with|_overload|\[|$)", case.get("name"))
    key = (resource, method.group(1) if method else case.get("name"))
    tests[key][1] += 1
    problem = next((case.find(tag) for tag in ("failure", "error") if case.find(tag) is not None), None)
    if problem is None:
        tests[key][0] += 1
    else:
        name = re.sub(r"\[.*", "", case.get("name"))
        failures[(resource, name, (problem.get("message") or "").splitlines()[0][:160])] += 1
for (resource, name, why), count in sorted(failures.items()):
    print(f"failed {count} times: {resource} {name}: {why}")
for (resource, method), (passed, total) in sorted(tests.items()):
    print(f"{resource:28} {method:24} {passed:4} of {total:4} passed")
