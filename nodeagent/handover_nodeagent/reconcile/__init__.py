"""The loop: what happened becomes state, state becomes routes, and then it is told.

``loop`` steps the machines that ``lifecycle`` starts; ``cutover`` is the way from an announcement
to its route. What comes in: ``endpoint_sink`` and ``configuration_sink`` (the API), ``observe``
(the kernel), ``alarms`` (time). What follows: ``enforce``, ``guard``, ``listening``, ``publish``.
"""
