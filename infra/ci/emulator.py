"""Makes of a built template what ministack takes: emulator.py BUILT_TEMPLATE, in place. Each change is printed.

Everything else of the template is deployed as it is. What is left out here is held by tests and by cfn-lint instead."""

import sys

from samtranslator.yaml_helper import yaml_parse
from samcli.yamlhelper import yaml_dump

# Resources of types that the emulator does not know.
UNKNOWN = {
    "AWS::ApiGatewayV2::ApiMapping",
    "AWS::ApiGatewayV2::DomainName",
    "AWS::Route53::RecordSetGroup",
}


def said(what):
    print(f"emulator: {what}")


def changed(template):
    functions = template["Globals"]["Function"]
    if functions.pop("DeploymentPreference", None):
        said("no CodeDeploy: versions take over at once")
    resources = template["Resources"]
    for name in [name for name, body in resources.items() if body["Type"] in UNKNOWN]:
        said(f"no {name}: {resources.pop(name)['Type']} is unknown")
    for name, body in resources.items():
        if body["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in body["Properties"]:
            # Kept under their names, because others name them.
            for field in ("Metrics", "DatapointsToAlarm"):
                body["Properties"].pop(field, None)
            body["Properties"] |= {"Namespace": "emulator", "MetricName": name, "Statistic": "Sum", "Period": 60}
            said(f"{name} looks at nothing: metric math is unknown")
    return template


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        template = yaml_parse(file.read())
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(yaml_dump(changed(template)))


main()
