"""OCR over HTTP: uploads in, pages out, several clients at once.

`app` is the application with its addresses, `door` who may ask, `service` what becomes of a request, `engine` the
threads that read, `uploads` what clients send, `kserve` the protocol of that name, `protocol` and `server` what stands
between the application and the network.
"""
