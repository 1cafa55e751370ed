"""Expands template.yaml as CloudFormation does (by aws-sam-translator, which is that very transform) and fails if the
expansion gives anybody a right that is not written in the template.

tests/security/permissions.rs holds the roles of the template against what the functions do. This is the other half: what
SAM makes of the template has those roles and no others, each function has its own, and besides them only API Gateway may
call the functions of the API. And pages may call it as the template says: SAM makes a list of a CorsConfiguration whose parts
are conditions, which API Gateway does not take."""

import os

import report
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

# What SAM writes for the functions, their event sources and the API. A type that is new here is one to think about.
GENERATED = {
    "AWS::ApiGatewayV2::Api",
    "AWS::ApiGatewayV2::Stage",
    "AWS::CodeDeploy::Application",
    "AWS::CodeDeploy::DeploymentGroup",
    "AWS::Lambda::Alias",
    "AWS::Lambda::EventSourceMapping",
    "AWS::Lambda::Function",
    "AWS::Lambda::Permission",
    "AWS::Lambda::Version",
}
# The roles that are no function's, with what uses each.
OTHER_ROLES = {"DeploymentRole": "AWS::CodeDeploy::DeploymentGroup"}
# What API Gateway wants of a CorsConfiguration (API Gateway developer guide, "x-amazon-apigateway-cors").
CORS = {"allowOrigins", "allowMethods", "allowHeaders", "exposeHeaders", "maxAge"}
# What Lambda itself asks with a function's role, from outside of the VPC (Lambda developer guide, "SQS event source mappings").
BY_LAMBDA = {"sqs:ReceiveMessage"}
# What a stage says of the parameters that have no default.
GIVEN = {"JwtIssuer": "https://issuer.example.com/"}


class NoManagedPolicies:
    """The template names no managed policy: asking for one is an error."""

    def load(self):
        return {}


def of_type(resources, kind):
    return {name: body for name, body in resources.items() if body["Type"].startswith(kind)}


def function_of(reference):
    """The function that is reached by its alias; by the function itself would be past the deployment's steps."""
    name, alias = reference["Ref"].split("Alias")
    return name if alias == "live" else f"{name} by {alias}"


def expand(text):
    template = yaml_parse(text)
    # Where `sam deploy` has put the packages by the time that the template is expanded.
    template["Globals"]["Function"]["CodeUri"] = "s3://packages/bootstrap.zip"
    parameters = GIVEN | {name: body["Default"] for name, body in template["Parameters"].items() if "Default" in body}
    return transform(template, parameters, NoManagedPolicies())


def wrong(template, expanded):
    """What the expansion has that the template has not."""
    written, made = template["Resources"], expanded["Resources"]

    for name, body in made.items():
        if name in written and not written[name]["Type"].startswith("AWS::Serverless::"):
            if body != written[name]:
                yield f"{name} is changed"
        elif body["Type"] not in GENERATED:
            yield f"{name} is added, of type {body['Type']}"

    if of_type(made, "AWS::IAM::") != of_type(written, "AWS::IAM::"):
        yield "other roles or policies than the template's"
    roles = of_type(written, "AWS::IAM::Role")

    functions = of_type(written, "AWS::Serverless::Function")
    if set(functions) != set(of_type(made, "AWS::Lambda::Function")):
        yield "other functions than the template's"
    owners = []
    for name, body in of_type(made, "AWS::Lambda::Function").items():
        role = body["Properties"]["Role"]
        if role != written.get(name, {}).get("Properties", {}).get("Role"):
            yield f"{name} has the role {role}"
        owners.append(role["Fn::GetAtt"][0])
    if sorted(owners) != sorted(set(roles) - set(OTHER_ROLES)):
        yield f"roles {sorted(roles)} are those of {sorted(owners)}"
    for role, kind in OTHER_ROLES.items():
        users = of_type(made, kind).items()
        if not users:
            yield f"nothing uses {role}"
        for name, body in users:
            if body["Properties"]["ServiceRoleArn"] != {"Fn::GetAtt": [role, "Arn"]}:
                yield f"{name} does not use {role}"

    sources = sorted(
        str((name, event["Properties"]["Queue"]))
        for name, function in functions.items()
        for event in function["Properties"]["Events"].values()
        if event["Type"] == "SQS"
    )
    mappings = sorted(
        str((function_of(body["Properties"]["FunctionName"]), body["Properties"]["EventSourceArn"]))
        for body in of_type(made, "AWS::Lambda::EventSourceMapping").values()
    )
    if mappings != sources:
        yield f"event sources {mappings}, not {sources}"

    condition, *cases = made["Api"]["Properties"]["Body"]["x-amazon-apigateway-cors"].get("Fn::If", [None])
    if (
        condition != "HasCorsOrigins"
        or not isinstance(cases[0], dict)
        or set(cases[0]) != CORS
        or cases[1] != {"Ref": "AWS::NoValue"}
    ):
        yield f"pages may call the API by {condition}: {cases}"

    api = {
        name
        for name, function in functions.items()
        if any(event["Type"] == "HttpApi" for event in function["Properties"]["Events"].values())
    }
    callable_ = set()
    for name, body in of_type(made, "AWS::Lambda::Permission").items():
        permission = body["Properties"]
        callable_.add(function_of(permission["FunctionName"]))
        source = str(permission.get("SourceArn"))
        if (
            permission["Action"] != "lambda:InvokeFunction"
            or permission["Principal"] != "apigateway.amazonaws.com"
            or "${__ApiId__}" not in source
            or str({"Ref": "Api"}) not in source
        ):
            yield f"{name} lets {permission['Principal']} do {permission['Action']} from {source}"
    if callable_ != api:
        yield f"{sorted(callable_)} may be called, not {sorted(api)}"


def statements(body):
    """The statements of an inline policy or of an endpoint's."""
    found = body.get("Statement", [])
    return found if isinstance(found, list) else [found]


def actions(body):
    """The actions of an allowing policy; of an If, whatever its condition says."""
    listed = [action for one in statements(body) if one.get("Effect") == "Allow" for action in [one.get("Action", [])]]
    return {name for action in listed for name in (action if isinstance(action, list) else [action])}


def not_through_the_endpoints(template, network):
    """What a function's role may do and the endpoint of its service, in the VPC, does not permit."""
    endpoints = [
        body["Properties"]["PolicyDocument"]
        for body in of_type(network["Resources"], "AWS::EC2::VPCEndpoint").values()
        if "PolicyDocument" in body["Properties"]
    ]
    permitted = set().union(*map(actions, endpoints))
    services = {action.split(":")[0] for action in permitted}
    for name, role in of_type(template["Resources"], "AWS::IAM::Role").items():
        if name in OTHER_ROLES:
            continue
        for policy in role["Properties"].get("Policies", []):
            # A policy may be an If of one.
            for part in policy["Fn::If"][1:] if "Fn::If" in policy else [policy]:
                for action in sorted(actions(part.get("PolicyDocument", {}))):
                    service = action.split(":")[0]
                    if service in services and not {action, f"{service}:*"} & permitted | {action} & BY_LAMBDA:
                        yield f"{name} may {action}, and the endpoint in the VPC does not permit it"


def main():
    # The transform asks for a region, to know the partition.
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    with open("template.yaml", encoding="utf-8") as file:
        text = file.read()
    with open("infra/cloudformation/network.yaml", encoding="utf-8") as file:
        network = yaml_parse(file.read())
    template = yaml_parse(text)
    complaints = [*wrong(template, expand(text)), *not_through_the_endpoints(template, network)]
    report.finish("expansion", complaints, "the roles are the template's and nobody else has rights")


main()
