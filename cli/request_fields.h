/* The fields of a request's body: request.c's other half. */
#ifndef HEARTH_CLI_REQUEST_FIELDS_H
#define HEARTH_CLI_REQUEST_FIELDS_H

#include "cli/request.h"

/* 0, or -1: refused. */
int cli_request_take_body(cli_request *r, const cli_request_rules *rules, const cJSON *body, cli_refusal *why);

#endif
