#!/usr/bin/env bash
# Posts a communication with curl and waits for its outcome. API is the API's address, TOKEN a token with the role SERVICE or
# CLINIC_ADMIN.
set -euo pipefail

# The same key is the same communication: whoever repeats this after a lost answer sends nothing twice.
key=${KEY:-example-curl-$(date +%s)}

accepted=$(curl --fail-with-body --silent --show-error "$API/api/v1/communications" \
  --header "Authorization: Bearer $TOKEN" --header 'Content-Type: application/json' --header "Idempotency-Key: $key" \
  --data '{
    "category": "appointment", "channels": ["email"],
    "title": "Appointment confirmed", "body": "See you on Monday at 10:00.",
    "recipients": [{"email": "patient@example.com", "name": "A. Patient"}],
    "metadata": {"clinicId": "clinic-123"}}')
id=$(jq --raw-output .requestId <<<"$accepted")

for ((attempt = 0; attempt < 60; attempt++)); do
  delivery=$(curl --fail-with-body --silent --show-error "$API/api/v1/communications/$id" \
    --header "Authorization: Bearer $TOKEN" | jq --compact-output '.deliveries[0]')
  status=$(jq --raw-output .status <<<"$delivery")
  case $status in
    queued | sending) sleep 1 ;;
    *) break ;;
  esac
done
reason=$(jq --raw-output '.reason | if . then " (\(.code): \(.detail))" else "" end' <<<"$delivery")
echo "$id: $status$reason"
[[ $status == sent ]]
