"""Evaluates the Rules of template.yaml (CloudFormation user guide, "Rules") for the stages of samconfig.toml: a stage may be refused
for what somebody has to fill in, and for nothing else. The stages are read by SAM's own parser, which takes no empty value."""

import tomllib

import report
from click import BadParameter
from samcli.cli.types import CfnParameterOverridesType
from samtranslator.yaml_helper import yaml_parse

# What each stage is refused for as it is in the repository.
TO_FILL_IN = {
    "dev": set(),
    "staging": set(),
    "prod": {
        "Production needs the issuer of its callers' tokens, JwtIssuer.",
        "Production needs somebody to be told of alarms, AlarmTopicArn.",
    },
}
FILLED_IN = {
    "JwtIssuer": "https://login.platform.example/",
    "AlarmTopicArn": "arn:aws:sns:eu-central-1:123456789012:alarms",
}
# What must be refused, with what it is refused for.
MISTAKES = [
    ({"Stage": "prod", "DeletionProtection": "false"}, "DeletionProtection."),
    ({"Stage": "live", "AwsEndpointUrl": "http://127.0.0.1:4566"}, "AwsEndpointUrl."),
    ({"Stage": "dev", "DomainName": "api.example.com"}, "DomainCertificateArn."),
    ({"Stage": "dev", "ClientCaUri": "s3://bucket/ca.pem"}, "client certificates."),
]


def value(expression, parameters):
    if not isinstance(expression, dict):
        return expression
    ((name, operand),) = expression.items()
    if name == "Ref":
        return parameters[operand]
    operands = [value(each, parameters) for each in operand]
    if name == "Fn::Equals":
        return operands[0] == operands[1]
    if name == "Fn::Not":
        return not operands[0]
    if name == "Fn::Contains":
        return operands[1] in operands[0]
    raise ValueError(f"{name} is unknown here")


def refused(template, parameters):
    parameters = {name: body.get("Default") for name, body in template["Parameters"].items()} | parameters
    return {
        assertion["AssertDescription"]
        for rule in template["Rules"].values()
        if value(rule["RuleCondition"], parameters)
        for assertion in rule["Assertions"]
        if not value(assertion["Assert"], parameters)
    }


def given(overrides):
    """What `sam deploy` makes of a stage's parameters."""
    return CfnParameterOverridesType().convert(tuple(overrides), None, None)


def main():
    with open("template.yaml", encoding="utf-8") as file:
        template = yaml_parse(file.read())
    with open("samconfig.toml", "rb") as file:
        stages = tomllib.load(file)
    wrong = []
    for stage, commands in stages.items():
        if stage == "version":
            continue
        try:
            parameters = given(commands["deploy"]["parameters"]["parameter_overrides"])
        except BadParameter as error:
            wrong.append(f"SAM refuses {stage}: {error.message}")
            continue
        unknown = set(parameters) - set(template["Parameters"])
        if unknown:
            wrong.append(f"{stage} sets {unknown}, which the template does not have")
        if parameters["Stage"] != stage or "Architecture" not in parameters:
            wrong.append(f"{stage} does not say its stage and architecture")
        if (found := refused(template, parameters)) != TO_FILL_IN[stage]:
            wrong.append(f"{stage} is refused for {found}")
        if found := refused(template, parameters | FILLED_IN):
            wrong.append(f"{stage} is refused when it is filled in, for {found}")
    for mistake, reason in MISTAKES:
        found = refused(template, FILLED_IN | mistake)
        if not any(each.endswith(reason) for each in found):
            wrong.append(f"{mistake} is refused for {found}")
    summary = f"{len(TO_FILL_IN)} stages and {len(MISTAKES)} mistakes are judged as they should be"
    report.finish("rules", wrong, summary)


main()
