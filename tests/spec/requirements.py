"""The requirements of the two task protocols, each with the tests that hold it, or the reason why none does.

The texts are ours; the sources are SEP-2663 (rows A, the tasks extension of 2026-07-28) and the section "Tasks" of the
specification 2025-11-25 (SEP-1686, rows B). `test_requirements.py` checks both directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["REQUIREMENTS", "Requirement"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """One requirement.

    Attributes:
        text: What it asks.
        tests: The tests that hold it, as "file::function" under tests/.
        reason: Why there are none.
    """

    text: str
    tests: tuple[str, ...] = ()
    reason: str = ""


REQUIREMENTS: Mapping[str, Requirement] = {
    "A1": Requirement(
        text="The extension is advertised in server/discover with empty settings, and never as core tasks there.",
        tests=("spec/test_extension.py::test_the_extension_is_advertised_with_empty_settings_and_not_as_core_tasks",),
    ),
    "A2": Requirement(
        text="Each request opts in for itself, in its own _meta; earlier declarations do not count.",
        tests=("spec/test_extension.py::test_each_request_opts_in_for_itself",),
    ),
    "A3": Requirement(
        text="A request that did not declare never gets a CreateTaskResult: it gets the result, or the JSON ticket.",
        tests=(
            "spec/test_extension.py::test_a_request_that_did_not_declare_gets_the_ordinary_result_or_the_ticket",
            "spec/test_extension.py::test_a_legacy_connection_that_declares_the_extension_gets_no_task_of_it",
            "spec/test_extension_input.py::test_a_client_with_neither_tasks_nor_elicitation_is_asked_by_the_handle_tools",
        ),
    ),
    "A4": Requirement(
        text="What cannot be served without a task is refused (-32021), and the error names the missing extension.",
        tests=(
            "spec/test_extension.py::test_what_cannot_be_served_without_a_task_is_refused_and_says_what_is_missing",
        ),
    ),
    "A5": Requirement(
        text="Task requests and task notifications need the declaration (-32021).",
        tests=("spec/test_extension.py::test_task_requests_and_notifications_need_the_declaration",),
    ),
    "A6": Requirement(
        text="The server alone decides whether a call becomes a task.",
        tests=("spec/test_extension.py::test_the_server_alone_decides_what_becomes_a_task",),
    ),
    "A7": Requirement(
        text="CreateTaskResult is flat, without a wrapper, result, error, inputRequests or requestState.",
        tests=("spec/test_extension.py::test_the_handle_of_a_new_task_is_flat_and_says_nothing_that_does_not_apply",),
    ),
    "A8": Requirement(
        text="A handle is given only when tasks/get for it resolves, on every replica.",
        tests=(
            "spec/test_extension.py::test_a_handle_resolves_at_once_on_every_replica",
            "spec/test_extension_restarts.py::test_a_flow_with_input_goes_on_wherever_the_server_is_killed",
            "spec/test_extension_restarts.py::test_what_may_not_run_again_ends_as_lost_and_takes_every_message_after_that",
            "spec/test_extension_restarts.py::test_a_cancel_after_the_restart_reaches_a_task_that_would_run_again",
        ),
    ),
    "A9": Requirement(
        text="tasks/get gives the whole task with what belongs to its status; no tasks/result, no tasks/list.",
        tests=(
            "spec/test_extension.py::test_get_gives_the_whole_task_in_every_status",
            "spec/test_extension.py::test_a_result_is_exactly_what_the_tool_gave",
            "spec/test_extension.py::test_methods_of_the_core_tasks_are_unknown",
            "spec/test_extension_input.py::test_a_model_can_be_asked_inside_a_task",
            "spec/test_extension_over_http.py::test_a_task_of_one_surface_is_there_on_all_the_others",
            "spec/test_served.py::test_a_task_of_the_extension_asks_on_get_and_on_the_stream",
        ),
    ),
    "A10": Requirement(
        text="A tool that reports an error is completed; failed is for JSON-RPC errors and carries a statusMessage.",
        tests=(
            "spec/test_extension.py::test_a_tool_that_reports_an_error_is_completed",
            "spec/test_extension.py::test_a_json_rpc_error_is_failed_and_kept_as_it_is",
            "spec/test_extension.py::test_a_call_that_ran_out_of_time_is_failed_and_says_why",
            "spec/test_extension_restarts.py::test_what_may_not_run_again_ends_as_lost_and_takes_every_message_after_that",
        ),
    ),
    "A11": Requirement(
        text="Times are ISO 8601 with an offset; ttlMs counts from creation and is what is true at that moment.",
        tests=(
            "spec/test_extension.py::test_the_time_to_live_is_true_at_the_moment_of_each_answer",
            "spec/test_extension.py::test_last_updated_is_the_time_of_the_last_change_and_not_of_the_asking",
        ),
    ),
    "A12": Requirement(
        text="Unknown, expired and foreign ids get -32602 in the same words.",
        tests=(
            "spec/test_extension.py::test_an_expired_task_is_unknown_in_the_same_words",
            "spec/test_other_principals.py::test_the_extension_gives_another_principal_the_unknown_task_answer",
        ),
    ),
    "A13": Requirement(
        text="tasks/update and tasks/cancel answer with an empty acknowledgement, also for a settled task.",
        tests=(
            "spec/test_extension.py::test_update_and_cancel_answer_with_an_empty_acknowledgement",
            "spec/test_extension.py::test_a_settled_task_takes_cancels_and_answers_and_stays_as_it_is",
        ),
    ),
    "A14": Requirement(
        text="Answers to unknown, answered or withdrawn questions are ignored; a partial set is taken.",
        tests=(
            "spec/test_extension_input.py::test_a_partial_set_is_taken_and_the_rest_stays_asked",
            "spec/test_extension_input.py::test_answers_to_unknown_and_answered_questions_are_passed_over",
            "spec/test_extension_input.py::test_responses_that_are_no_responses_are_invalid_and_change_nothing",
            "spec/test_extension_input.py::test_a_model_can_be_asked_inside_a_task",
        ),
    ),
    "A15": Requirement(
        text="Input keys are never reused within a task.",
        tests=("spec/test_extension_input.py::test_each_question_of_a_task_has_a_key_of_its_own",),
    ),
    "A16": Requirement(
        text="A terminal status is final.",
        tests=(
            "spec/test_extension.py::test_a_settled_task_takes_cancels_and_answers_and_stays_as_it_is",
            "spec/test_extension_restarts.py::test_a_flow_with_input_goes_on_wherever_the_server_is_killed",
            "spec/test_extension_restarts.py::test_a_cancel_after_the_restart_reaches_a_task_that_would_run_again",
        ),
    ),
    "A17": Requirement(
        text="Questions before the task are asked on the call itself; the last round is the task with its answers.",
        tests=(
            "spec/test_extension_input.py::test_questions_before_the_task_are_asked_on_the_call_and_the_answers_reach_the_work",
            "spec/test_extension_input.py::test_a_client_that_cannot_be_asked_on_the_call_is_asked_inside_the_task",
            "spec/test_extension_input.py::test_a_client_with_neither_tasks_nor_elicitation_is_asked_by_the_handle_tools",
        ),
    ),
    "A18": Requirement(
        text="Mcp-Method and Mcp-Name are the method and the task id; one that says something else is refused.",
        tests=(
            "spec/test_extension_over_http.py::test_a_name_header_that_is_not_the_task_is_refused",
            "spec/test_extension_over_http.py::test_a_method_header_that_is_not_the_method_is_refused",
            "spec/test_extension_over_http.py::test_a_request_without_the_name_header_is_served",
            "spec/test_extension_over_http.py::test_an_encoded_name_header_counts_as_what_it_says",
        ),
    ),
    "A19": Requirement(
        text="notifications/tasks come on a listen stream that named the id: whole tasks, nothing else.",
        tests=(
            "spec/test_extension_stream.py::test_a_stream_acknowledges_the_ids_it_honours_and_gives_each_task_whole",
            "spec/test_extension_stream.py::test_questions_and_their_answers_are_told_and_progress_is_only_the_tasks_own",
            "spec/test_extension_stream.py::test_one_stream_serves_many_tasks_and_a_settled_one_is_told_at_once",
            "spec/test_extension_stream.py::test_a_task_that_another_process_runs_is_told_too",
            "spec/test_other_principals.py::test_a_stream_honours_only_the_callers_own_tasks",
            "spec/test_served.py::test_a_task_of_the_extension_asks_on_get_and_on_the_stream",
        ),
    ),
    "A20": Requirement(
        text="Ids cannot be guessed; every task request is authorised for its caller.",
        tests=(
            "spec/test_extension.py::test_ids_are_long_random_and_fit_a_header",
            "spec/test_other_principals.py::test_the_extension_gives_another_principal_the_unknown_task_answer",
            "spec/test_other_principals.py::test_a_stream_honours_only_the_callers_own_tasks",
            "spec/test_other_principals.py::test_the_handle_tools_give_another_principal_the_unknown_task_answer",
        ),
    ),
    "A21": Requirement(
        text="A client declares the extension on every request, takes either result, and polls behind call_tool.",
        tests=(
            "client/test_tasks_extension.py::test_every_request_declares_the_extension_and_every_task_request_names_its_task",
            "client/test_tasks_extension.py::test_call_tool_takes_either_result",
        ),
    ),
    "A22": Requirement(
        text="A client keeps the interval it is given, answers each question once, and can resume after a crash.",
        tests=(
            "client/test_tasks_extension.py::test_the_interval_that_the_server_gives_is_kept",
            "client/test_tasks_extension.py::test_a_question_that_is_shown_again_is_not_asked_again",
            "client/test_resuming.py::test_a_second_process_gets_the_result_after_the_first_was_killed",
        ),
    ),
    "A23": Requirement(
        text="A question that comes by inputRequests has the trust of a direct one: the same callbacks decide.",
        tests=(
            "client/test_tasks_extension.py::test_the_clients_own_callback_answers_each_question_once",
            "client/test_tasks_extension.py::test_a_callback_that_refuses_ends_the_call_as_it_would_for_a_direct_request",
        ),
    ),
    "B1": Requirement(
        text="initialize shows the whole capability; each tool says its taskSupport.",
        tests=(
            "spec/test_core_tasks.py::test_the_capability_is_whole_and_each_tool_says_whether_it_takes_tasks",
            "spec/test_core_tasks_of_the_sdk.py::test_the_experimental_client_of_the_sdk_1_runs_asks_cancels_and_lists",
        ),
    ),
    "B2": Requirement(
        text="The client asks for a task by params.task; the answer nests it.",
        tests=(
            "spec/test_core_tasks.py::test_a_call_that_asks_for_a_task_gets_it_nested",
            "spec/test_core_tasks.py::test_a_call_that_does_not_ask_gets_no_task",
            "spec/test_core_tasks_of_the_sdk.py::test_the_experimental_client_of_the_sdk_1_runs_asks_cancels_and_lists",
        ),
    ),
    "B3": Requirement(
        text="tasks/get, tasks/result, tasks/list with opaque cursors and the own scope only, tasks/cancel.",
        tests=(
            "spec/test_core_tasks.py::test_get_tells_the_task_and_result_waits_for_exactly_what_the_call_would_have_returned",
            "spec/test_core_tasks.py::test_result_keeps_the_tools_own_meta_beside_the_related_task",
            "spec/test_core_tasks.py::test_result_is_the_tools_error_or_the_calls_json_rpc_error",
            "spec/test_core_tasks.py::test_cancel_answers_with_the_cancelled_task_and_refuses_a_settled_one",
            "spec/test_core_tasks.py::test_an_unknown_task_is_refused_in_the_same_words_by_every_method",
            "spec/test_core_tasks.py::test_the_list_comes_in_pages_by_opaque_cursors_and_takes_no_other",
            "spec/test_core_tasks.py::test_who_cannot_be_told_apart_is_shown_no_list",
            "spec/test_core_tasks.py::test_a_killed_server_comes_back_and_the_flow_goes_on",
            "spec/test_core_tasks.py::test_a_cancel_ends_a_result_whose_question_is_open",
            "spec/test_core_tasks_of_the_sdk.py::test_the_experimental_client_of_the_sdk_1_runs_asks_cancels_and_lists",
            "spec/test_extension_over_http.py::test_a_task_of_one_surface_is_there_on_all_the_others",
            "spec/test_other_principals.py::test_the_core_tasks_give_another_principal_the_unknown_task_answer",
            "spec/test_other_principals.py::test_listings_hold_the_callers_own_tasks_only",
        ),
    ),
    "B4": Requirement(
        text="A task where none is possible, or none where one is required: -32601.",
        tests=(
            "spec/test_core_tasks.py::test_a_task_where_none_is_possible_is_an_unknown_method",
            "spec/test_core_tasks.py::test_no_task_where_one_is_required_is_an_unknown_method",
        ),
    ),
    "B5": Requirement(
        text="What a task asks goes out on the open tasks/result stream, tagged with the related task.",
        tests=(
            "spec/test_core_tasks.py::test_what_a_task_asks_goes_out_on_the_open_result_stream",
            "spec/test_core_tasks.py::test_a_client_that_refuses_a_question_leaves_it_open_for_another",
            "spec/test_core_tasks.py::test_a_client_that_cannot_be_asked_is_not_and_the_handle_tools_answer",
            "spec/test_core_tasks.py::test_a_task_that_waits_for_its_caller_is_asked_again_after_a_restart",
            "spec/test_core_tasks.py::test_a_question_that_another_surface_answers_is_not_waited_for",
            "spec/test_core_tasks.py::test_a_cancel_ends_a_result_whose_question_is_open",
            "spec/test_core_tasks_of_the_sdk.py::test_the_experimental_client_of_the_sdk_1_runs_asks_cancels_and_lists",
            "spec/test_served.py::test_a_core_task_asks_on_the_open_result_stream",
        ),
    ),
    "B6": Requirement(
        text="notifications/tasks/status may be sent; a client may not rely on it.",
        reason="raincheck sends none: what a client may not rely on helps none, and tasks/result waits anyway",
    ),
    "B7": Requirement(
        text="A wished ttl is honoured within bounds, and the real one is reported.",
        tests=(
            "spec/test_core_tasks.py::test_the_wished_time_to_live_is_honoured_within_bounds_and_the_real_one_reported",
            "spec/test_core_tasks.py::test_after_its_time_to_live_a_task_is_gone",
            "spec/test_core_tasks.py::test_a_time_to_live_below_zero_is_refused",
            "spec/test_core_tasks_of_the_sdk.py::test_the_experimental_client_of_the_sdk_1_runs_asks_cancels_and_lists",
        ),
    ),
}
"""By row."""
