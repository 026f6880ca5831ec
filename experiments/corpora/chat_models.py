"""Language models that write: any chat-completions endpoint, or a model in this process."""

import asyncio
import logging
import os
from typing import Any, Protocol

from probes.errors import DataError, StorypriorError

Message = dict[str, str]
_LOG = logging.getLogger(__name__)


class EndpointError(StorypriorError):
    """The endpoint does not answer, or not with what was asked for."""


class ChatModel(Protocol):
    """Answers a conversation with one text."""

    async def reply(
        self,
        messages: list[Message],
        *,
        temperature: float,
        max_tokens: int,
        seed: int,
        schema: dict[str, Any] | None = None,
    ) -> str:
        """The model's answer, cut off after `max_tokens`; empty where it said nothing of use.

        `schema` is a JSON schema for the answer, kept to where the model's server can do so.

        Raises:
            EndpointError: there is no answer to be had, after all retries.
        """
        ...


class Endpoint:
    """A server that speaks the chat-completions protocol: vLLM, llama.cpp, a provider."""

    def __init__(
        self, base_url: str, model: str, *, timeout: float = 300.0, retries: int = 12
    ) -> None:
        """`retries` of a request that failed; they wait longer and longer, up to 8 s each."""
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise EndpointError(
                "an endpoint needs the openai package: pip install 'storyprior[endpoint]'"
            ) from error
        # Local servers want no key, and the client wants one.
        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            timeout=timeout,
            max_retries=retries,
        )
        self._where = f"{base_url} (model {model})"
        self._model = model
        self._takes_schemas = True  # until it refuses one

    async def reply(
        self,
        messages: list[Message],
        *,
        temperature: float,
        max_tokens: int,
        seed: int,
        schema: dict[str, Any] | None = None,
    ) -> str:
        """See `ChatModel`."""
        import openai

        shaped: dict[str, Any] = {}
        if schema is not None and self._takes_schemas:
            form = {"name": "answer", "schema": schema}
            shaped = {"response_format": {"type": "json_schema", "json_schema": form}}
        ask: Any = self._client.chat.completions.create  # its overloads know no such keywords
        options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        try:
            try:
                answer = await ask(model=self._model, messages=messages, **options, **shaped)
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                if not shaped:
                    raise
                self._takes_schemas = False
                answer = await ask(model=self._model, messages=messages, **options)
        except (openai.APITimeoutError, openai.APIConnectionError) as error:
            raise EndpointError(f"{self._where} does not answer: {error}") from error
        except openai.APIStatusError as error:
            reason = f"{error.status_code} {' '.join(error.message.split())[:200]}"
            raise EndpointError(f"{self._where} refuses: {reason}") from error
        except (openai.OpenAIError, ValueError) as error:  # not JSON, or another JSON
            _LOG.warning("%s sent nonsense: %s", self._where, error)
            return ""
        choices = getattr(answer, "choices", None)
        if not choices or choices[0].message is None:
            return ""
        return (choices[0].message.content or "").strip()


class InProcess:
    """A chat model loaded here; it answers one conversation at a time."""

    def __init__(self, reference: str) -> None:
        """Loads a hub id, a folder, a packaged model or a `.gguf`.

        Raises:
            DataError: the model has no chat template.
        """
        from probes import load

        self._model: Any = load(reference)
        if not self._model.tokenizer.chat_template:
            raise DataError(f"model {reference!r} has no chat template; choose an instruct model")
        self._lock = asyncio.Lock()

    async def reply(
        self,
        messages: list[Message],
        *,
        temperature: float,
        max_tokens: int,
        seed: int,
        schema: dict[str, Any] | None = None,
    ) -> str:
        """See `ChatModel`."""
        async with self._lock:
            texts = await asyncio.to_thread(
                self._model.generate,
                [messages],
                max_new_tokens=max_tokens,
                do_sample=temperature > 0,
                temperature=temperature or 1.0,
                top_p=0.95,
                seed=seed,
            )
        return texts[0].strip()


def chat_model(generator: str, model: str | None) -> ChatModel:
    """The model that `openai:BASE_URL` (with a model name) or `hf:REFERENCE` stands for.

    Raises:
        DataError: it is neither, or the name is missing.
    """
    kind, _, rest = generator.partition(":")
    if kind == "openai" and rest:
        if not model:
            raise DataError("an endpoint serves several models; name one with --model")
        return Endpoint(rest, model)
    if kind == "hf" and rest:
        return InProcess(rest)
    raise DataError(
        f"unknown generator {generator!r}; use grammar, openai:BASE_URL or hf:REFERENCE"
    )
