from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    QUEUE_FULL: _ClassVar[Reason]
    QUOTA: _ClassVar[Reason]
    DEADLINE: _ClassVar[Reason]
    BAD_IMAGE: _ClassVar[Reason]
    TOO_LARGE: _ClassVar[Reason]
    DUPLICATE: _ClassVar[Reason]
    FAILED: _ClassVar[Reason]
REASON_UNSPECIFIED: Reason
QUEUE_FULL: Reason
QUOTA: Reason
DEADLINE: Reason
BAD_IMAGE: Reason
TOO_LARGE: Reason
DUPLICATE: Reason
FAILED: Reason

class PhoneMessage(_message.Message):
    __slots__ = ("open", "key")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    open: Open
    key: KeyFrame
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., key: _Optional[_Union[KeyFrame, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("style", "consent", "model_version")
    STYLE_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    style: bytes
    consent: bool
    model_version: int
    def __init__(self, style: _Optional[bytes] = ..., consent: _Optional[bool] = ..., model_version: _Optional[int] = ...) -> None: ...

class KeyFrame(_message.Message):
    __slots__ = ("sequence", "image", "scene_start", "deadline_ms")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SCENE_START_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    image: bytes
    scene_start: bool
    deadline_ms: int
    def __init__(self, sequence: _Optional[int] = ..., image: _Optional[bytes] = ..., scene_start: _Optional[bool] = ..., deadline_ms: _Optional[int] = ...) -> None: ...

class EdgeMessage(_message.Message):
    __slots__ = ("opened", "styled", "refused", "draining")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    STYLED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    styled: Styled
    refused: Refused
    draining: Draining
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., styled: _Optional[_Union[Styled, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("session", "model_version", "max_in_flight", "max_side", "max_image_bytes")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    session: str
    model_version: int
    max_in_flight: int
    max_side: int
    max_image_bytes: int
    def __init__(self, session: _Optional[str] = ..., model_version: _Optional[int] = ..., max_in_flight: _Optional[int] = ..., max_side: _Optional[int] = ..., max_image_bytes: _Optional[int] = ...) -> None: ...

class Styled(_message.Message):
    __slots__ = ("session", "sequence", "model_version", "image", "queue_ms", "server_ms")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    SERVER_MS_FIELD_NUMBER: _ClassVar[int]
    session: str
    sequence: int
    model_version: int
    image: bytes
    queue_ms: int
    server_ms: int
    def __init__(self, session: _Optional[str] = ..., sequence: _Optional[int] = ..., model_version: _Optional[int] = ..., image: _Optional[bytes] = ..., queue_ms: _Optional[int] = ..., server_ms: _Optional[int] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("session", "sequence", "reason", "retry_after_ms")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    session: str
    sequence: int
    reason: Reason
    retry_after_ms: int
    def __init__(self, session: _Optional[str] = ..., sequence: _Optional[int] = ..., reason: _Optional[_Union[Reason, str]] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteCollectedRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteCollectedReply(_message.Message):
    __slots__ = ("deleted",)
    DELETED_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    def __init__(self, deleted: _Optional[int] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("code", "public_key")
    CODE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    code: str
    public_key: bytes
    def __init__(self, code: _Optional[str] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class EnrollReply(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StateReply(_message.Message):
    __slots__ = ("model_version", "revoked")
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    model_version: int
    revoked: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model_version: _Optional[int] = ..., revoked: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class WorkRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResultReply(_message.Message):
    __slots__ = ("wanted",)
    WANTED_FIELD_NUMBER: _ClassVar[int]
    wanted: bool
    def __init__(self, wanted: _Optional[bool] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data", "sha256")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    sha256: str
    def __init__(self, data: _Optional[bytes] = ..., sha256: _Optional[str] = ...) -> None: ...
