#!/usr/bin/env python3
"""OpenAI's Python client against `quern serve`: openai_python.py PROGRAM"""

import sys

import serving

serving.under_clients_python()

import openai  # noqa: E402
from serving import check  # noqa: E402

ASK = [{"role": "user", "content": "What is 17 + 25?"}]
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


def test_chat(client):
    answer = client.chat.completions.create(model="tiny", messages=ASK, temperature=0, extra_body=NO_THINKING)
    check("42" in answer.choices[0].message.content, answer)
    check(answer.choices[0].finish_reason == "stop", answer)
    check(answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage)
    return answer.choices[0].message.content


def test_stream(client, whole):
    stream = client.chat.completions.create(model="tiny", messages=ASK, temperature=0, stream=True,
                                            stream_options={"include_usage": True}, extra_body=NO_THINKING)
    text, usage = "", None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
    check(text == whole, (text, whole))
    check(usage.completion_tokens > 1, usage)


def test_thoughts(client):
    answer = client.chat.completions.create(model="tiny", messages=ASK, temperature=0, max_completion_tokens=300)
    message = answer.choices[0].message
    check(message.reasoning and message.reasoning == message.reasoning_content, message)
    check("<think>" not in (message.content or "") and "</think>" not in (message.content or ""), message)


def test_seeds(client):
    def draw(seed):
        answer = client.completions.create(model="tiny", prompt="The", temperature=2, seed=seed, n=2, max_tokens=24,
                                           extra_body={"top_k": 0, "top_p": 1})
        return [choice.text for choice in answer.choices]

    one = draw(1)
    check(one == draw(1), "equal seeds give different answers")
    check(one[0] != one[1] and one != draw(2), "other seeds, or choices, give equal answers")


def test_texts(client):
    answer = client.completions.create(model="tiny", prompt=["One", "Two"], max_tokens=4, logprobs=2, echo=True)
    check([choice.index for choice in answer.choices] == [0, 1], answer)
    logprobs = answer.choices[1].logprobs
    check(logprobs.token_logprobs[0] is None, logprobs)
    # The token that ended the answer has a logprob, but no text.
    check("".join(logprobs.tokens).startswith(answer.choices[1].text), logprobs)
    check(answer.choices[0].text.startswith("One"), answer)


def test_models(client):
    check([model.id for model in client.models.list()] == ["tiny"], "models.list")
    check(client.models.retrieve("tiny").id == "tiny", "models.retrieve")


def test_errors(url):
    client = openai.OpenAI(base_url=url + "/v1", api_key="secret", max_retries=0)
    for error, arguments in [(openai.NotFoundError, {"model": "other"}),
                             (openai.BadRequestError, {"model": "tiny", "temperature": 5})]:
        try:
            client.chat.completions.create(messages=ASK, **arguments)
        except error as caught:
            check(caught.body["message"] and caught.body["type"], caught.body)
        else:
            raise AssertionError(f"no {error.__name__}")
    try:
        openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0).models.list()
    except openai.AuthenticationError:
        return
    raise AssertionError("a wrong key was taken")


def main():
    with serving.Server(sys.argv[1], "--api-key", "secret") as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="secret", max_retries=0)
        whole = test_chat(client)
        test_stream(client, whole)
        test_thoughts(client)
        test_seeds(client)
        test_texts(client)
        test_models(client)
        test_errors(server.url)


main()
